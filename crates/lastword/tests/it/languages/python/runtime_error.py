print("before")
raise RuntimeError("uncaught")
