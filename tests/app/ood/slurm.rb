# frozen_string_literal: true

module Ood
  # What ood_core's Slurm adapter makes of `script:` in submit.yml: the arguments of sbatch; and what squeue says of a job.
  module Slurm
    STATES = {
      queued: %w[CF PD RQ], running: %w[CG R ST], suspended: %w[PR S],
      completed: %w[BF CA CD DL F NF OOM RV SE TO]
    }.flat_map { |state, codes| codes.map { |code| [code, state] } }.to_h.freeze

    FIELDS = { id: 'JobID', state: 'StateCompact', nodes: 'NodeList', job_name: 'Name', owner: 'UserName', account: 'Account',
               cpus: 'NumCPUs', partition: 'Partition', used: 'TimeUsed', limit: 'TimeLimit' }.freeze

    # One job as `session.info` in info.html.erb.
    Info = Struct.new(:id, :status, :allocated_nodes, :job_name, :job_owner, :accounting_id, :procs, :queue_name,
                      :wallclock_time, :wallclock_limit, keyword_init: true)

    # One state with its questions, as `session.status`.
    Status = Struct.new(:state) do
      %i[undetermined completed queued_held queued running suspended].each do |name|
        define_method(:"#{name}?") { state == name }
      end

      def to_sym
        state
      end

      def to_s
        state.to_s
      end
    end

    module_function

    # @return the arguments of sbatch in the adapter's order, and the variables of its own environment
    def sbatch(script)
      script = script.compact
      environment = (script[:job_environment] || {}).to_h { |name, value| [name.to_s, value.to_s] }
      arguments = []
      add = ->(option, name, &change) { arguments.push(option, change ? change.call(script[name]) : script[name].to_s) if script.key?(name) }

      arguments << '-H' if script[:submit_as_hold]
      arguments << (script[:rerunnable] ? '--requeue' : '--no-requeue') if script.key?(:rerunnable)
      add.call('-D', :workdir)
      add.call('--mail-user', :email) { |names| Array.wrap(names).join(',') }
      mail = mail_type(script[:email_on_started], script[:email_on_terminated])
      arguments.push('--mail-type', mail) if mail
      { '-J' => :job_name, '-i' => :input_path, '-o' => :output_path, '-e' => :error_path,
        '--reservation' => :reservation_id, '-p' => :queue_name }.each { |option, name| add.call(option, name) }
      add.call('--priority', :priority) { |value| value.to_i.to_s }
      add.call('--begin', :start_time) { |value| Time.at(value.to_i).localtime.strftime('%C%y-%m-%dT%H:%M:%S') }
      add.call('-A', :accounting_id)
      add.call('-t', :wall_time) { |value| duration(value.to_i) }
      add.call('-a', :job_array_request)
      add.call('--qos', :qos)
      add.call('--gpus-per-node', :gpus_per_node) { |value| value.to_i.to_s }
      add.call('-n', :cores) { |value| value.to_i.to_s } if Ood.v4?
      arguments.push('--export', export(environment, script[:copy_environment]))
      # A `native` that is not a list fails here, as it does there.
      arguments.concat(script[:native]) if script[:native]
      [arguments.map(&:to_s) + ['--parsable'], environment]
    end

    def mail_type(started, terminated)
      return 'ALL' if started && terminated
      return 'BEGIN' if started
      return 'END' if terminated

      'NONE' if started == false && terminated == false
    end

    def duration(seconds)
      format('%<h>02d:%<m>02d:%<s>02d', h: seconds / 3600, m: seconds / 60 % 60, s: seconds % 60)
    end

    def export(environment, copy)
      names = environment.keys
      names.unshift('ALL') if copy
      names.empty? ? 'NONE' : names.join(',')
    end

    # A job that squeue does not know is taken for completed.
    def info(job)
      gap = "\x1f"
      format = FIELDS.values.push(nil).join(":#{gap},")
      out, err, status = Open3.capture3('squeue', '--all', '--states=all', '--noconvert', '-O', format, '-j', job.to_s)
      unless status.success?
        state = err.include?('Invalid job id specified') ? :completed : :undetermined
        return Info.new(id: job, status: Status.new(state), allocated_nodes: [])
      end

      line = out.lines[1]
      return Info.new(id: job, status: Status.new(:completed), allocated_nodes: []) unless line

      from_squeue(FIELDS.keys.zip(line.split(gap).map(&:strip)).to_h)
    end

    def from_squeue(job)
      nodes = job[:nodes].to_s.empty? ? [] : `scontrol show hostnames #{job[:nodes]}`.split.map { |name| OpenStruct.new(name: name) }
      account = job[:account] == '(null)' ? nil : job[:account]
      Info.new(id: job[:id], status: Status.new(STATES.fetch(job[:state].to_s, :undetermined)), allocated_nodes: nodes,
               job_name: job[:job_name], job_owner: job[:owner], accounting_id: account, procs: job[:cpus], queue_name: job[:partition],
               wallclock_time: seconds(job[:used]), wallclock_limit: seconds(job[:limit]))
    end

    def seconds(text)
      time, days = text.to_s.split('-').reverse
      days.to_i * 86_400 + time.to_s.split(':').reduce(0) { |total, part| total * 60 + part.to_i }
    end
  end
end
