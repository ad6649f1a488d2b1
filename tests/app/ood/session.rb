# frozen_string_literal: true

module BatchConnect
  # One launched app: staged folder, job, card. Its record is a JSON file in the dashboard's db folder.
  class Session
    RECORD = %w[id cluster_id job_id created_at token title script_type cache_completed completed_at].freeze
    TemplateBinding = Struct.new(:session, :context) do
      def get_binding
        binding
      end
    end

    attr_accessor(*RECORD.map(&:to_sym))

    def self.dataroot
      Pathname.new(ENV.fetch('OOD_DATAROOT') { "#{CurrentUser.home}/ondemand/data/sys/dashboard" }).join('batch_connect')
    end

    def self.find(id, app)
      session = new
      JSON.parse(dataroot.join('db', id).read).each { |name, value| session.public_send("#{name}=", value) }
      session.instance_variable_set(:@app, app)
      session
    end

    # Stage only: the folder with everything rendered.
    def prepare(app, request)
      context = begin_session(app, request)
      stage(context)
      { staged_root: staged_root.to_s }
    end

    # The whole of the Launch button: submit.yml, then staging, then the job; any failure is shown above the form.
    def launch(app, request)
      context = begin_session(app, request)
      submit = shown('save') { app.submit_opts(context, staged_root: staged_root) }
      self.cluster_id = submit.fetch(:cluster, cluster_id).to_s
      raise Shown.new('save', 'No cluster is given') if cluster_id.blank?
      raise Shown.new('submit', "Session specifies nonexistent '#{cluster_id}' cluster id.") unless request['clusters'].include?(cluster_id)

      stage(context)
      shown('submit') { submit_job(submit, request) }
    end

    # What a poll of the card shows now.
    def card
      complete if completed?
      { state: state, connection: running? ? connect.to_h : nil, job_id: job_id, view: running? ? custom_view : nil,
        info: custom(%w[info.md.erb info.html.erb]),
        completed: completed? ? custom(%w[completed.md.erb completed.html.erb]) : nil, completed_at: completed_at }
    end

    # -- what views may ask of a session

    attr_reader :app

    def staged_root
      self.class.dataroot.join(token, 'output', id)
    end

    def info
      @info ||= cache_completed ? Ood::Slurm::Info.new(id: job_id, status: Ood::Slurm::Status.new(:completed), allocated_nodes: []) : Ood::Slurm.info(job_id)
    end

    def status
      info.status
    end

    def user_context
      @user_context ||= JSON.parse(staged_root.join('user_defined_context.json').read)
    rescue StandardError
      {}
    end

    def connect
      OpenStruct.new(YAML.safe_load(staged_root.join('connection.yml').read))
    end

    def queued?
      status.queued?
    end

    def suspended?
      status.suspended?
    end

    def completed?
      status.completed?
    end

    # Nobody looks whether the connection is of this run of the job: a requeued one shows the old.
    def starting?
      status.running? && !staged_root.join('connection.yml').file?
    end

    def running?
      status.running? && !starting?
    end

    private

    def begin_session(app, request)
      @app = app
      self.id = request['id'] || SecureRandom.uuid
      self.token = app.token
      self.title = app.title
      self.created_at = Time.now.to_i
      context = app.context_from(request.fetch('values'))
      self.cluster_id = context.try(:cluster).to_s
      context
    end

    def stage(context)
      shown('stage') do
        template = app.root.join('template')
        FileUtils.mkdir_p(staged_root.to_s, mode: 0o700) unless staged_root.exist?
        swap_files = Ood.v4? ? ['--exclude', '.*.swp'] : []
        output, done = Open3.capture2e('rsync', '-rlpv', *swap_files, '--exclude', '*.erb', "#{template}/", staged_root.to_s)
        raise output unless done.success?

        staged_root.join('user_defined_context.json').write(JSON.pretty_generate(context.as_json))
        scope = TemplateBinding.new(self, context).get_binding
        Pathname.glob(template.join('**', '*.erb')).select(&:file?).each { |file| render(file, template, scope) }
      end
    end

    def render(file, template, scope)
      target = staged_root.join(file.relative_path_from(template)).sub_ext('')
      target.write(ERB.new(file.read, trim_mode: '-').result(scope))
      target.chmod(file.stat.mode)
    end

    def submit_job(submit, request)
      submit = submit.compact
      content = job_script(submit.fetch(:batch_connect, {}), request.fetch('cluster_config'))
      script = { job_name: "#{request.fetch('portal')}/sys/dashboard/#{token}", workdir: staged_root, output_path: staged_root.join('output.log') }
      script = script.merge(submit.fetch(:script, {}).compact)
      staged_root.join('job_script_content.sh').write(content)
      staged_root.join('job_script_options.json').write(JSON.pretty_generate(script))
      arguments, environment = Ood::Slurm.sbatch(script)
      text = "#!#{script.fetch(:shell_path, '/bin/bash')}\n#{content}"
      if request['submit']
        out, err, done = Open3.capture3(environment, 'sbatch', *arguments, stdin_data: text)
        raise err unless done.success?

        self.job_id = out.strip.split(';').first
        save
      end
      { id: id, job_id: job_id, staged_root: staged_root.to_s, sbatch: arguments, environment: environment, script: text }
    end

    def job_script(given, cluster)
      self.script_type = given.fetch(:template, 'basic').to_s
      raise Shown.new('harness', "the template #{script_type} is not imitated here") if script_type != 'basic'

      paths = { work_dir: staged_root, conn_file: staged_root.join('connection.yml') }
      %w[before script after clean].each { |name| paths[:"#{name}_file"] = staged_root.join("#{name}.sh") }
      Ood::JobScript.new(cluster.symbolize_keys.merge(given).merge(paths)).to_s
    end

    def save
      db = self.class.dataroot.join('db')
      db.mkpath
      db.join(id).write(JSON.generate(RECORD.to_h { |name| [name, public_send(name)] }), perm: 0o600)
    end

    def complete
      return if cache_completed

      self.cache_completed = true
      self.completed_at = Time.now.to_i
      save
    end

    def state
      return 'Starting' if starting?
      return 'Running' if running?

      { queued: 'Queued', suspended: 'Suspended', completed: 'Completed' }.fetch(status.to_sym, 'Undetermined')
    end

    def custom_view
      view = app.view(%w[view.html.erb])
      return 'missing information' unless view

      shown('view') { Ood.v4? ? view4(view, connect, self) : view3(view, connect) }
    end

    # `session` is a local of the page's partial in 4.x only; in 3.1 the name falls through to the OpenStruct and is nil.
    def view4(view, connect, session) # rubocop:disable Lint/UnusedMethodArgument
      Ood::MARKDOWN.render(ERB.new(view, trim_mode: '-').result(connect.instance_eval { binding }))
    end

    def view3(view, connect)
      Ood::MARKDOWN.render(ERB.new(view, trim_mode: '-').result(connect.instance_eval { binding }))
    end

    def custom(names)
      text = app.view(names)
      return nil unless text

      shown(names.first.split('.').first) { Ood::MARKDOWN.render(ERB.new(text, trim_mode: '-').result(own_binding)) }
    end

    # The session itself and no local of ours.
    def own_binding
      binding
    end

    def shown(where)
      yield
    rescue Shown
      raise
    rescue StandardError => e
      raise Shown.new(where, e.message)
    end
  end
end
