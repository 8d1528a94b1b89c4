my @blocks;
push @blocks, "x" x (16 << 20) . @blocks while 1;
