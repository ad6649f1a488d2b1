# frozen_string_literal: true

module BatchConnect
  # The values of one request, seen by template/ as `context`. It is Enumerable and an ActiveModel object as in the
  # dashboard, so the methods of both hide fields of the same name: that is the point of using the real libraries.
  class SessionContext
    include Enumerable
    include ActiveModel::Model
    include ActiveModel::Serializers::JSON

    attr_accessor :app_specific_cache_setting

    def initialize(attributes = [], app_specific_cache_setting = nil)
      @attributes = attributes
      @app_specific_cache_setting = app_specific_cache_setting
    end

    # The names of what is shown and may be posted; fixed attributes are neither.
    def attributes
      @attributes.reject(&:fixed?).to_h { |attribute| [attribute.id.to_s, nil] }
    end

    def attributes=(posted = {})
      posted.to_h.each { |name, value| public_send("#{name}=", value) if respond_to?("#{name}=") }
    end

    def [](id)
      @attributes.detect { |attribute| attribute == id }
    end

    def each(&block)
      @attributes.each(&block)
    end

    def method_missing(name, *arguments, &block)
      attribute = self[name.to_s.delete_suffix('=')]
      return super unless attribute

      name.to_s.end_with?('=') ? attribute.value = arguments.first : attribute.value
    end

    def respond_to_missing?(name, include_private = false)
      self[name.to_s.delete_suffix('=')] ? true : super
    end

    # A value that is itself a list shifts the names of all that follow: so it is in the dashboard.
    def to_h
      Hash[*map { |attribute| [attribute.id.to_sym, attribute.value] }.flatten]
    end

    def to_openstruct(addons)
      values = to_h
      illegal = OpenStruct.new.methods & values.keys
      raise ArgumentError, "#{illegal.inspect} are keywords that cannot be used as names for form items" if illegal.any?

      OpenStruct.new(values.merge(addons))
    end
  end
end
