print("never said"
