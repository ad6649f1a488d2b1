# frozen_string_literal: true

module SmartAttributes
  # One field of the form: its definition in form.yml.erb and its value, which templates see as a string.
  class Attribute
    # Widgets the dashboard draws itself, and the builders of Rails and bootstrap_form it passes everything else to.
    WIDGETS = %w[
      select radio radio_button check_box resolution_field path_selector file_attachments
      text_field text_area number_field email_field url_field telephone_field phone_field password_field hidden_field
      date_field datetime_field datetime_local_field time_field month_field week_field color_field range_field
      search_field file_field static_control
    ].freeze

    attr_reader :id, :opts

    def initialize(id, opts = {})
      @id = Ood.v4? ? id.to_s.downcase : id.to_s
      @opts = opts.to_h.symbolize_keys
    end

    def ==(other)
      id == other.to_s
    end

    def to_s
      value.to_s
    end

    def value
      opts[:value].to_s
    end

    def value=(other)
      @opts[:value] = other
    end

    def fixed?
      opts[:fixed] ? true : false
    end

    def widget
      (opts[:widget] || 'text_field').to_s
    end

    def label(*)
      (opts[:label] || id.titleize).to_s
    end

    def required
      opts[:required] ? true : false
    end

    def display?
      opts[:display] && (!Ood.v4? || widget != 'password_field') ? true : false
    end

    def submit(*)
      {}
    end

    # Labels and values of a select; nil where the entry is neither a string nor an array.
    def choices
      groups.flat_map(&:last)
    end

    # Rails makes optgroups when the first entry ends in a list, and then takes every entry for a group.
    def groups
      return [['', entries]] unless entries.first.is_a?(Array) && entries.first.last.is_a?(Array)
      raise NoMethodError, "an option of '#{id}' stands beside groups" unless entries.all? { |entry| entry.is_a?(Array) && entry.last.is_a?(Array) }

      entries.map { |label, options| [label.to_s, options.map { |option| option.is_a?(Array) ? option : [option.to_s, option.to_s] }] }
    end

    def entries
      excluded = opts.fetch(:exclude_options, []).to_a
      kept = opts.fetch(:options, []).to_a.reject { |entry| excluded.include?(entry.is_a?(Array) ? entry.first : entry) }
      kept.map do |entry|
        case entry
        when Array then entry
        when String, Symbol then [entry.to_s, entry.to_s]
        end
      end
    end

    def validate!
      return unless widget == 'select' && entries.any?(&:nil?)

      raise Shown.new('form', "The form has invalid options for '#{id}': it is missing options")
    end

    # What a browser posts for this field when the user leaves it alone.
    def posted(shown)
      case widget
      when 'select' then choices.map { |choice| choice[1].to_s }.then { |all| all.include?(shown) ? shown : all.first.to_s }
      when 'check_box' then shown == checked_value.to_s ? shown : opts.fetch(:unchecked_value, '0').to_s
      else shown
      end
    end

    def describe(shown)
      {
        id: id, widget: widget, label: label, help: Ood::MARKDOWN.render(opts[:help].to_s), value: shown, posted: posted(shown),
        required: required, options: choices, groups: groups, html_options: opts.fetch(:html_options, {}), display: display?,
        others: opts.except(:widget, :label, :help, :value, :required, :options, :html_options, :display)
      }
    end

    private

    def checked_value
      opts.fetch(:checked_value, '1')
    end
  end
end
