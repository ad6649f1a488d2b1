# frozen_string_literal: true

module BatchConnect
  # An app's folder: form.yml(.erb), submit.yml(.erb), the views and template/.
  class App
    attr_reader :root, :token

    def initialize(request)
      @root = Pathname.new(request.fetch('app'))
      @token = request.fetch('token')
      @sub_app = @token.split('/')[2]
      @site_folder = request['site_folder']
      @known_clusters = request.fetch('clusters')
    end

    def title
      form_config.fetch(:title) { [manifest['name'] || root.basename.to_s.titleize, @sub_app&.titleize].compact.join(': ') }.to_s
    end

    # Where a site's own files for this app are; the folder below /etc/ood takes the place of the app's own.
    def sub_app_root
      @site_folder ? Pathname.new(@site_folder) : root.join('local')
    end

    # The menu's link launches at once when there is nothing to fill in.
    def preset?(attributes)
      shown = attributes.reject { |attribute| attribute.fixed? || (attribute.id == 'cluster' && attribute.widget == 'hidden_field') }
      shown.empty?
    end

    # The page of the form: every field with what it would show.
    def form
      raise Shown.new('manifest', 'the app has no category or the role is not batch_connect') unless listed?

      context = build_context
      shown = context.reject(&:fixed?).map do |attribute|
        unless SmartAttributes::Attribute::WIDGETS.include?(attribute.widget)
          raise NoMethodError, "undefined method `#{attribute.widget}' for the form builder"
        end

        # The form builder asks the context by name, so a method of that name answers instead of the field.
        attribute.describe(context.public_send(attribute.id).to_s)
      end
      fixed = context.select(&:fixed?).to_h { |attribute| [attribute.id, attribute.value] }
      { title: title, clusters: clusters, fields: shown, fixed: fixed, preset: preset?(context.to_a),
        description: Ood::MARKDOWN.render(form_config.fetch(:description, manifest['description']).to_s),
        header: Ood::MARKDOWN.render(form_config.fetch(:form_header, '').to_s) }
    end

    def submit_from(request)
      staged_root = Pathname.new(request.fetch('staged_root'))
      submit_opts(context_from(request.fetch('values')), staged_root: staged_root)
    rescue Shown
      raise
    rescue StandardError => e
      raise Shown.new('save', e.message)
    end

    # The context after a POST: only shown fields are taken from it, and nothing is checked.
    def context_from(values)
      context = build_context
      context.attributes = values.slice(*context.attributes.keys)
      context
    end

    # The names of the variables are the dashboard's: submit.yml.erb sees them, and they hide fields of the same name.
    def submit_opts(session_context, fmt: 'slurm', staged_root: nil)
      hsh = session_context.map(&:submit).reduce({}, :deep_merge)
      struct = session_context.to_openstruct(staged_root: staged_root)
      ctx_binding = struct.instance_eval { binding }
      hsh.deep_merge(submit_config(ctx_binding))
    end

    def view(names)
      file = names.map { |name| root.join(name) }.find(&:file?)
      file&.read
    end

    private

    def build_context
      raise Shown.new('app', validation_reason) unless valid?

      attributes.each(&:validate!)
      SessionContext.new(attributes, form_config.fetch(:cacheable, nil))
    end

    def manifest
      @manifest ||= YAML.safe_load(root.join('manifest.yml').read).to_h
    end

    def listed?
      manifest['role'] == 'batch_connect' && manifest['category'].present? && !root.basename.to_s.include?('.')
    end

    def form_config
      return @form_config if @form_config

      file = first_file(%w[form.yml.erb form.yml])
      raise "This app does not supply a form file under the directory '#{root}'" unless file

      found = read(file, nil)
      if @sub_app
        own = first_file(["#{@sub_app}.yml.erb", "#{@sub_app}.yml"], sub_app_root)
        raise "This app does not supply a sub app form file under the directory '#{sub_app_root}'" unless own

        found = found.deep_merge(read(own, nil))
      end
      @form_config = found
    rescue StandardError, ScriptError, SystemExit => e
      @reason = "#{e.class.name}: #{e.message}"
      @form_config = {}
    end

    def submit_config(scope)
      file = first_file(%w[submit.yml.erb submit.yml])
      found = file ? read(file, scope) : {}
      own = form_config[:submit] && first_file(Array.wrap(form_config[:submit]), sub_app_root)
      own ? found.deep_merge(read(own, scope)) : found
    end

    # No aliases, symbols or dates; without a binding the ERB sees bare constants.
    def read(path, scope)
      text = path.read
      if path.extname == '.erb'
        erb = ERB.new(text, trim_mode: '-')
        erb.filename = path.to_s
        text = erb.result(scope)
      end
      YAML.safe_load(text).to_h.deep_symbolize_keys
    end

    def first_file(names, folder = root)
      names.map { |name| folder.join(name) }.find(&:file?)
    end

    def valid?
      if form_config.empty? then false
      elsif !form_config.fetch(:form, []).is_a?(Array) then invalid('The form must be an array')
      elsif !form_config.fetch(:attributes, {}).is_a?(Hash) then invalid('The attributes must be a hash')
      else configured.empty? || clusters.any?
      end
    end

    def invalid(reason)
      @reason = reason
      false
    end

    def validation_reason
      @reason || 'This app requires clusters that do not exist or you do not have access to.'
    end

    def configured
      Array.wrap(form_config.fetch(:cluster, nil)).map { |name| name.to_s.strip }.reject(&:empty?)
    end

    def clusters
      configured.flat_map do |name|
        @known_clusters.include?(name) ? [name] : @known_clusters.select { |known| File.fnmatch(name, known, File::FNM_EXTGLOB) }
      end
    end

    def attributes
      @attributes ||= begin
        definitions = form_config.fetch(:attributes, {})
        names = form_config.fetch(:form, [])
        add_cluster(definitions, names)
        names.map do |name|
          given = definitions.fetch(name.to_sym, {})
          given = { value: given, fixed: true } unless given.is_a?(Hash)
          SmartAttributes.build(name.to_s, given)
        end
      end
    end

    def add_cluster(definitions, names)
      return if clusters.empty?

      names.prepend('cluster') unless names.include?('cluster')
      given = Ood.v4? ? definitions[:cluster] || {} : {}
      definitions[:cluster] =
        if clusters.size > 1 then { widget: 'select', label: 'Cluster', options: clusters.map { |id| [id.titleize, id] } }
        elsif Ood.v4? then { value: clusters.first, widget: 'hidden_field' }
        else { value: clusters.first, fixed: true }
        end.merge(given)
    end
  end
end
