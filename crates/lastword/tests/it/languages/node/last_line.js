console.log("last line");
process.kill(process.pid, "SIGKILL");
for (;;);
