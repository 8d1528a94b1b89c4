print "before\n";
$! = 0;
die "uncaught";
