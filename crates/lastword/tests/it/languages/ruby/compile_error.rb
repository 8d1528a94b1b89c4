puts("never said"
