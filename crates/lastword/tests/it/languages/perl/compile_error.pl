print "never said" if (;
