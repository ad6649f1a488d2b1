# frozen_string_literal: true

# The constant that form.yml.erb files may use; the dashboard runs as the user herself.
class CurrentUser
  class << self
    delegate :name, :uid, :gid, :gecos, :dir, :shell, to: :entry
    alias home dir

    def primary_group
      Etc.getgrgid(gid)
    end

    def primary_group_name
      primary_group.name
    end

    def groups
      [gid, *(Process.groups - [gid])].map { |id| Etc.getgrgid(id) }
    end

    def group_names
      groups.map(&:name)
    end

    private

    def entry
      @entry ||= Etc.getpwuid
    end
  end
end
