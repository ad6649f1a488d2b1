port=$(find_port "$host")
password=$(create_passwd 12)
extra="${EXTRA:-plain}"
