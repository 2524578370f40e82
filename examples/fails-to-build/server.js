import http from "node:http";

http.createServer((_request, response) => response.end("never reached\n")).listen(process.env.PORT ?? 3000);
