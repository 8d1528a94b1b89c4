puts "before"
raise "uncaught"
