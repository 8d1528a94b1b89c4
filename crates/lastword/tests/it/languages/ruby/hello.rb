puts "hello from stdout"
warn "hello from stderr"
