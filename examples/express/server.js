import path from "node:path";
import express from "express";

const app = express();
const port = Number(process.env.PORT ?? 3000);

app.use((request, response, next) => {
  response.on("finish", () => console.log(request.method, request.originalUrl, response.statusCode));
  next();
});
app.get("/", (_request, response) => {
  const name = process.env.GREETING_NAME ?? "Shipoff";
  response.send(`<!doctype html><title>express</title><link rel="stylesheet" href="/style.css"><h1>Hello from ${name}</h1>\n`);
});
app.get("/healthz", (_request, response) => response.json({ status: "ok" }));
app.use(express.static(path.join(import.meta.dirname, "public")));

const server = app.listen(port, () => console.log(`express is listening on port ${port}`));
process.on("SIGTERM", () => server.close(() => process.exit(0)));
