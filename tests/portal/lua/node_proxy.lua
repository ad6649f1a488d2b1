-- Hands a request for /node/HOST/PORT or /rnode/HOST/PORT to mod_proxy, as Open OnDemand's mod_ood_proxy does (read in 3.1.16 and 4.2.3; our own words).

function node_proxy(r)
  local env = r.subprocess_env
  local target = env['MATCH_HOST'] .. ':' .. env['MATCH_PORT']
  local path = env['MATCH_URI'] or r.uri or '/'
  if path == '' then path = '/' end

  local scheme = r.headers_in['Upgrade'] and 'ws' or 'http'
  r.handler = 'proxy:' .. scheme .. '://' .. target
  -- The decoded path, as OOD sets it; Apache appends the query by itself.
  r.filename = path

  r.headers_in['X-Forwarded-Proto'] = r.is_https and 'https' or 'http'
  r.headers_in['X-Forwarded-User'] = r.user or ''
  r.headers_in['X-Forwarded-Escaped-Uri'] = r:escape(path)

  r:custom_response(503, 'Failed to connect to ' .. target)
  return apache2.DECLINED
end
