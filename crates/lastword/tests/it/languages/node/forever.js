console.log("started");
setInterval(() => {}, 3_600_000);
