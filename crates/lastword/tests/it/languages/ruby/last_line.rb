puts "last line"
Process.kill("KILL", Process.pid)
sleep
