#!/usr/bin/env ruby
# frozen_string_literal: true

# Plays the part of Open OnDemand's dashboard for one request: reads one JSON object on standard input, answers one on
# standard output. Rendering and scopes are in ood/; ondemand.py is the Python side and the way to use it.
#
#   {"action": "form|submit|stage|launch|card", "version": "3.1|4.2", "app": DIR, ...} → {"ok": true, ...} | {"ok": false, "where", "message"}

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

result =
  begin
    { ok: true }.merge(answer(JSON.parse($stdin.read)))
  rescue Shown => e
    { ok: false, where: e.where, message: e.message }
  rescue StandardError, ScriptError, SystemExit => e
    { ok: false, where: 'http 500', message: "#{e.class}: #{e.message}", backtrace: e.backtrace.first(8) }
  end
ANSWER.write(JSON.generate(result.as_json))
