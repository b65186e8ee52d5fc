// The demo's service (main.go) on Node's own server and client.
const http = require("http");

function answer(req, res, code, text) {
  res.writeHead(code, { "Content-Length": Buffer.byteLength(text) });
  res.end(text);
  console.log("served", req.method, req.url, code);
}

http
  .createServer((req, res) => {
    req.resume();
    req.on("end", () => {
      if (req.method === "POST") return answer(req, res, 201, '{"made":true}');
      if (req.url.startsWith("/items/")) return answer(req, res, 200, '{"item":"a thing"}');
      switch (req.url) {
        case "/fail":
          return answer(req, res, 500, "broken");
        case "/slow":
          return setTimeout(() => answer(req, res, 200, "at last"), 50);
        case "/stream": {
          let n = 0;
          const next = () => {
            if (n++ === 5) return res.end();
            res.write("chunk ".repeat(20));
            setTimeout(next, 2);
          };
          return next();
        }
        case "/chain":
          return http.get("http://" + process.env.NEXT + "/items/7", (r) => {
            let text = "";
            r.on("data", (d) => (text += d));
            r.on("end", () => answer(req, res, 200, text));
          });
        default:
          return answer(req, res, 404, "no such thing");
      }
    });
  })
  .listen(8080);

process.on("SIGTERM", () => process.exit(0));
