# frozen_string_literal: true

module Ood
  # The batch script of the template `basic`, in the order of ood_core's batch_connect/template.rb, its own quirks
  # included: `cd` is not quoted, connection.yml comes from an unquoted `echo -e`, no `set -e`, before/after/clean are
  # sourced into the same shell, and a failing after.sh is ignored.
  class JobScript
    # @param options what `batch_connect:` of submit.yml says, over the cluster's, plus the paths the session sets
    def initialize(options)
      @options = options.compact.symbolize_keys
    end

    def to_s
      "#{option(:header)}\n#{option(:script_wrapper, '%s') % body}\n#{option(:footer)}\n"
    end

    private

    def option(name, default = '')
      @options.fetch(name, default).to_s
    end

    def source(name)
      option(:"#{name}_script", %([[ -e "#{option(:"#{name}_file")}" ]] && source "#{option(:"#{name}_file")}"))
    end

    def run
      script = %("#{option(:script_file)}")
      seconds = option(:timeout)
      option(:run_script, seconds.empty? ? script : "timeout #{seconds} #{script}")
    end

    def connection
      names = Array.wrap(@options.fetch(:conn_params, [])).map(&:to_s) + %w[host port password]
      names.uniq.map { |name| "#{name}: $#{name}" }.join('\n')
    end

    def body
      <<~BASH
        cd #{option(:work_dir)}

        export host
        export port

        create_yml () {
          echo "Generating connection YAML file..."
          (
            umask 077
            echo -e "#{connection}" > "#{option(:conn_file)}"
          )
        }

        clean_up () {
          echo "Cleaning up..."
          #{source(:clean)}
          [[ ${SCRIPT_PID} ]] && pkill -P ${SCRIPT_PID} || :
          pkill -P $$
          exit ${1:-0}
        }

        #{@options.fetch(:bash_helpers, HELPERS % @options.reverse_merge(min_port: 2000, max_port: 65_535, password_size: 8))}
        source_helpers

        #{option(:set_host, 'host=$(hostname)')}

        #{source(:before)}

        echo "Script starting..."
        #{run} &
        SCRIPT_PID=$!

        #{source(:after)}

        create_yml

        wait ${SCRIPT_PID} || clean_up 1

        clean_up
      BASH
    end

    # The functions an app may call, with the same names, arguments and exit codes as OOD's.
    HELPERS = <<~'BASH'.gsub(/%(?!\{)/, '%%').freeze
      source_helpers () {
        random_number () { shuf -i "${1}-${2}" -n 1; }
        export -f random_number

        port_used () {
          local port="${1#*:}" host="localhost" way status
          [[ "$1" == *:* ]] && host="${1%:*}"
          for way in nc lsof bash python python3; do
            case $way in
              nc) nc -w 2 "$host" "$port" < /dev/null > /dev/null 2>&1 ;;
              lsof) lsof -i :"$port" > /dev/null 2>&1 ;;
              bash) strings /bin/bash 2> /dev/null | grep -q '^/dev/tcp/\*/\*$' || continue
                    (: < "/dev/tcp/$host/$port") > /dev/null 2>&1 ;;
              *) "$way" -c "import socket; socket.socket().connect(('$host',$port))" > /dev/null 2>&1 ;;
            esac
            status=$?
            (( status < 2 )) && return $status
          done
          return 127
        }
        export -f port_used

        find_port () {
          local host="${1:-localhost}" port
          for port in $(shuf -i "${2:-%{min_port}}-${3:-%{max_port}}"); do
            port_used "${host}:${port}" || { echo "$port"; return 0; }
          done
          echo "error: failed to find available port" >&2
          return 1
        }
        export -f find_port

        wait_until_port_used () {
          local tries=$(( ${2:-30} * 2 )) status
          while (( tries-- > 0 )); do
            port_used "$1"; status=$?
            case $status in
              0) return 0 ;;
              127) echo "commands to find port were either not found or inaccessible."; return 127 ;;
            esac
            sleep 0.5
          done
          return 1
        }
        export -f wait_until_port_used

        create_passwd () { tr -cd 'a-zA-Z0-9' < /dev/urandom 2> /dev/null | head -c "${1:-%{password_size}}"; }
        export -f create_passwd
      }
      export -f source_helpers
    BASH
  end
end
