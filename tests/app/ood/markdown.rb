# frozen_string_literal: true

module Ood
  # The renderer of the dashboard (ood_appkit's configuration.rb): every view, help text and description passes through it.
  MARKDOWN = Redcarpet::Markdown.new(
    Redcarpet::Render::HTML,
    autolink: true, tables: true, strikethrough: true, fenced_code_blocks: true, no_intra_emphasis: true
  )
end
