# frozen_string_literal: true

# Which OOD is played: 3.1.16 or 4.2.3.
module Ood
  class << self
    attr_accessor :version

    def v4?
      version.to_s.start_with?('4')
    end
  end
end
