# frozen_string_literal: true

# What the dashboard does with a form once for each of a user's web server processes: ERB, then YAML without aliases
# (batch_connect/app.rb, form_config). Prints the seconds of each of ROUNDS, one on a line, then the number of options.
#
#   ruby form.rb FORM ROUNDS

require 'erb'
require 'yaml'

path, rounds = ARGV
form = {}
Integer(rounds).times do
  started = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  text = File.read(path)
  if path.end_with?('.erb')
    erb = ERB.new(text, trim_mode: '-')
    erb.filename = path
    text = erb.result(nil)
  end
  form = YAML.safe_load(text).to_h
  puts Process.clock_gettime(Process::CLOCK_MONOTONIC) - started
end
raise 'the form has no fields' if form.fetch('form').empty?

model = form.dig('attributes', 'model') || {}
options = model.fetch('options', [])
puts options.sum { |option| option.last.is_a?(Array) ? option.last.size : 1 }
