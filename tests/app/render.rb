#!/usr/bin/env ruby
# frozen_string_literal: true

# Plays the part of Open OnDemand's dashboard: reads requests, a JSON object a line, and answers each with a line; an
# empty one is a process that died. Each is answered in a process of its own, with the user, the environment and the
# folder that it names, so that nothing outlives it; the libraries, most of the time, are loaded once before.
# Rendering and scopes are in ood/; ondemand.py is the Python side and the way to use it.
#
#   {"process": {"uid", "gid", "groups", "env", "cwd", "timeout_s"},
#    "action": "form|submit|stage|launch|card", "version": "3.1|4.2", "app": DIR, ...} → {"ok": true, ...} | {"ok": false, "where", "message"}

require 'json'

# What an ERB file prints must not get into the answer.
ANSWER = $stdout.dup
$stdout.reopen($stderr)

require 'active_support/all'
require 'active_model'
require 'redcarpet'
require 'cgi'
require 'erb'
require 'fileutils'
require 'pathname'
require 'shellwords'
require 'yaml'
require 'open3'
require 'ostruct'
require 'securerandom'
require 'etc'
require 'date'

# Something that the user of the dashboard would see instead of the page asked for.
class Shown < StandardError
  attr_reader :where

  def initialize(where, message)
    super(message)
    @where = where
  end
end

%w[version markdown current_user attribute smart_attributes context app job_script slurm session].each do |part|
  require_relative "ood/#{part}"
end

def answer(request)
  Ood.version = request.fetch('version')
  app = BatchConnect::App.new(request)
  case request.fetch('action')
  when 'form' then app.form
  when 'submit' then { submit: app.submit_from(request) }
  when 'stage' then BatchConnect::Session.new.prepare(app, request)
  when 'launch' then BatchConnect::Session.new.launch(app, request)
  when 'card' then BatchConnect::Session.find(request.fetch('id'), app).card
  end
end

def result(request)
  { ok: true }.merge(answer(request))
rescue Shown => e
  { ok: false, where: e.where, message: e.message }
rescue StandardError, ScriptError, SystemExit => e
  { ok: false, where: 'http 500', message: "#{e.class}: #{e.message}", backtrace: e.backtrace.first(8) }
end

# As a login of the user begins: her folder, her groups, her environment and no other.
def become(process)
  Dir.chdir(process.fetch('cwd'))
  File.umask(0o022)
  if process['uid']
    Process.groups = process.fetch('groups')
    Process::GID.change_privilege(process.fetch('gid'))
    Process::UID.change_privilege(process.fetch('uid'))
  end
  ENV.replace(process.fetch('env'))
end

$stdin.each_line do |line|
  request = JSON.parse(line)
  process = request.fetch('process')
  reader, writer = IO.pipe
  child = fork do
    [reader, ANSWER].each(&:close)
    $stdin.reopen(File::NULL)
    become(process)
    writer.write(JSON.generate(result(request).as_json))
    writer.close
  end
  writer.close
  Process.kill('KILL', child) unless reader.wait_readable(process.fetch('timeout_s'))
  ANSWER.puts(reader.read)
  ANSWER.flush
  reader.close
  Process.wait(child)
end
