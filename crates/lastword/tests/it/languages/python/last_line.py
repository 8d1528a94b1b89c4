import os
import signal

print("last line")
os.kill(os.getpid(), signal.SIGKILL)
