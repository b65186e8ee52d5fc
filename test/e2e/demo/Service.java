import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.concurrent.Executors;

/** The demo's service (main.go) on the JDK's own server and client. */
public class Service {
  static final HttpClient client =
      HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

  static void answer(HttpExchange x, int code, String text) throws IOException {
    byte[] body = text.getBytes();
    x.sendResponseHeaders(code, body.length);
    x.getResponseBody().write(body);
    x.close();
    System.out.println("served " + x.getRequestMethod() + " " + x.getRequestURI() + " " + code);
  }

  static void handle(HttpExchange x) throws IOException {
    try {
      x.getRequestBody().readAllBytes();
      String path = x.getRequestURI().getPath();
      if (x.getRequestMethod().equals("POST")) {
        answer(x, 201, "{\"made\":true}");
      } else if (path.startsWith("/items/")) {
        answer(x, 200, "{\"item\":\"a thing\"}");
      } else if (path.equals("/fail")) {
        answer(x, 500, "broken");
      } else if (path.equals("/slow")) {
        Thread.sleep(50);
        answer(x, 200, "at last");
      } else if (path.equals("/stream")) {
        x.sendResponseHeaders(200, 0); // in chunks
        OutputStream out = x.getResponseBody();
        for (int i = 0; i < 5; i++) {
          out.write("chunk ".repeat(20).getBytes());
          out.flush();
          Thread.sleep(2);
        }
        x.close();
      } else if (path.equals("/chain")) {
        URI next = URI.create("http://" + System.getenv("NEXT") + "/items/7");
        answer(x, 200, client.send(HttpRequest.newBuilder(next).build(), BodyHandlers.ofString()).body());
      } else {
        answer(x, 404, "no such thing");
      }
    } catch (InterruptedException e) {
      x.close();
    }
  }

  public static void main(String[] args) throws IOException {
    HttpServer s = HttpServer.create(new InetSocketAddress(8080), 0);
    s.createContext("/", Service::handle);
    s.setExecutor(Executors.newFixedThreadPool(8));
    s.start();
  }
}
