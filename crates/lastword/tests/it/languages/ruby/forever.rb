puts "started"
sleep
