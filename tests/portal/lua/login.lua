-- The portal's login, shaped like mod_auth_openidc: a session cookie is the login, and without it a browser is sent round by /oidc/login.
-- The cookie's value is the user's name, which no real portal does: nothing here needs to be a secret.

local COOKIE = 'mod_auth_openidc_session'

local function user_of(r)
  local cookies = '; ' .. (r.headers_in['Cookie'] or '')
  return string.match(cookies, ';%s*' .. COOKIE .. '=([%w_.-]+)')
end

function check_user(r)
  local user = user_of(r)
  if user then
    r.user = user
    return apache2.OK
  end
  -- mod_auth_openidc's OIDCUnAuthAction: a page is sent to the login, a script's request gets 401.
  if r.headers_in['X-Requested-With'] == 'XMLHttpRequest' or r.headers_in['Upgrade'] or r.method ~= 'GET' then
    return 401
  end
  r.headers_out['Location'] = '/oidc/login?next=' .. r:escape(r.unparsed_uri)
  return 302
end

function login(r)
  local query = r:parseargs()
  local user = query['user'] or r.subprocess_env['PORTAL_USER']
  r.err_headers_out['Set-Cookie'] = COOKIE .. '=' .. user .. '; Path=/; HttpOnly; SameSite=Lax' .. (r.is_https and '; Secure' or '')
  r.headers_out['Location'] = query['next'] or '/'
  r.status = 302
  return apache2.OK
end
