# frozen_string_literal: true

module SmartAttributes
  # A number with the smallest value 1, as hours, nodes and cores are.
  class CountAttribute < Attribute
    def initialize(id, opts)
      super(id, { min: 1, step: 1 }.merge(opts.to_h.symbolize_keys))
    end

    def value
      (opts[:value] || '1').to_s
    end

    def widget
      'number_field'
    end

    def number
      value.blank? ? 1 : value.to_i
    end
  end

  # Wall time of the job.
  class Hours < CountAttribute
    def label(*)
      (opts[:label] || 'Number of hours').to_s
    end

    def required
      true
    end

    def submit(*)
      { script: { wall_time: number * 3600 } }
    end
  end

  # Nodes of the job; lost when submit.yml has a `native` of its own.
  class Nodes < CountAttribute
    def submit(*)
      { script: { native: ['-N', number] } }
    end
  end

  # Tasks of the job.
  class Cores < CountAttribute
    def submit(*)
      { script: { cores: number } }
    end
  end

  # Account or partition typed as text: an empty one is none.
  class Named < Attribute
    KEYS = { 'bc_account' => :accounting_id, 'bc_queue' => :queue_name }.freeze

    def submit(*)
      { script: { KEYS.fetch(id) => value.blank? ? nil : value.strip } }
    end
  end

  # Partition or quality of service chosen from a list the dashboard made.
  class Chosen < Attribute
    KEYS = { 'auto_queues' => :queue_name, 'auto_qos' => :qos }.freeze

    def widget
      'select'
    end

    def submit(*)
      { script: { KEYS.fetch(id) => value } }
    end
  end

  # The user's accounts as Slurm's database has them, without `bc_dynamic_js`; none where it cannot be asked.
  class Accounts < Attribute
    ASK = %w[sacctmgr -nP show users withassoc format=account,cluster,partition,qos].freeze

    def initialize(id, opts)
      words, done = Open3.capture2(*ASK, 'where', "user=#{CurrentUser.name}", err: File::NULL)
      names = done.success? ? words.lines.map { |line| line.split('|').first.to_s.strip }.reject(&:empty?).uniq : []
      super('auto_accounts', { options: names }.merge(opts.to_h.symbolize_keys.except(:options)))
    rescue SystemCallError
      super('auto_accounts', opts.to_h.symbolize_keys.except(:options))
    end

    def widget
      'select'
    end

    def label(*)
      (opts[:label] || 'Account').to_s
    end

    def submit(*)
      { script: { accounting_id: value } }
    end
  end

  # Mail when the job starts.
  class Email < Attribute
    def widget
      'check_box'
    end

    def submit(*)
      { script: { email_on_started: !value.to_i.zero? } }
    end
  end

  # One variable of the job's environment.
  class EnvironmentVariable < Attribute
    def initialize(id, opts)
      @key = id.delete_prefix('auto_environment_variable_')
      super("auto_environment_variable_#{@key.tr('-', '_')}", opts)
    end

    def submit(*)
      { script: { job_environment: { @key.upcase => value } } }
    end
  end

  COMMON = {
    /\Abc_num_hours\z/ => Hours, /\Abc_num_slots\z/ => Nodes, /\Abc_account\z|\Abc_queue\z/ => Named,
    /\Aauto_queues\z|\Aauto_qos\z/ => Chosen, /\Aauto_accounts\z/ => Accounts, /\Abc_email_on_started\z/ => Email
  }.freeze
  # In 3.1 these are plain text fields without any effect.
  SINCE4 = { /\Abc_num_nodes\z/ => Nodes, /\Aauto_cores\z/ => Cores, /\Aauto_environment_variable_[\w-]+\z/ => EnvironmentVariable }.freeze
  # Real smart attributes that need a site's services: refused rather than played kinder than they are.
  UNKNOWN = /\A(auto_(groups|primary_group|modules_|scripts|batch_clusters|job_name|log_location)|global_|bc_vnc_)/.freeze

  def self.build(id, opts)
    raise Shown.new('harness', "the smart attribute #{id} is not imitated here") if id.match?(UNKNOWN)

    known = Ood.v4? ? COMMON.merge(SINCE4) : COMMON
    kind = known.find { |pattern, _| id.match?(pattern) }&.last || Attribute
    kind.new(id, opts)
  end
end
