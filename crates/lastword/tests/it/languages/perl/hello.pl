print "hello from stdout\n";
print STDERR "hello from stderr\n";
