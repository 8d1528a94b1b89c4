print "last line\n";
kill "KILL", $$;
sleep 3600;
