import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Map;
import kotlin.Unit;
import kotlin.jvm.functions.Function0;
import okhttp3.OkHttpClient;
import org.phoenixframework.Channel;
import org.phoenixframework.Defaults;
import org.phoenixframework.Message;
import org.phoenixframework.Socket;

/**
 * JavaPhoenixClient on Maven Central, which is written in Kotlin. An interceptor of OkHttp adds the token to
 * each handshake, so a reconnect presents the latest one.
 */
public final class Client {
  private static final long TIMEOUT_MS = 10_000;

  private static volatile String token = System.getenv("TOKEN");
  private static volatile String cursor;

  private static synchronized void report(String line) {
    System.out.println(line);
    System.out.flush();
  }

  /** Remembers the cursor of an event or of the reply to a join. */
  private static Message remember(Message message) {
    if (payload(message).get("cursor") instanceof String next) {
      cursor = next;
    }
    return message;
  }

  private static Map<?, ?> payload(Message message) {
    Map<?, ?> payload = message.getPayload();
    return payload.get("response") instanceof Map<?, ?> response ? response : payload;
  }

  public static void main(String[] args) throws Exception {
    OkHttpClient http = new OkHttpClient.Builder()
        .addInterceptor(chain -> chain.proceed(
            chain.request().newBuilder().header("Authorization", "Bearer " + token).build()))
        .build();
    Function0<Map<String, Object>> noParameters = Map::of;
    Defaults defaults = Defaults.INSTANCE;
    Socket socket = new Socket(
        System.getenv("URL"), noParameters, Defaults.VSN, defaults.getEncode(), defaults.getDecode(), http);
    socket.setHeartbeatIntervalMs(1000);
    socket.onMessage(message -> {
      if (message.getTopic().equals("phoenix") && "ok".equals(message.getStatus())) {
        report("heartbeat");
      }
      return Unit.INSTANCE;
    });

    Function0<Map<String, Object>> since = () -> cursor == null ? Map.of() : Map.of("since", cursor);
    Channel channel = socket.channel(System.getenv("TOPIC"), since);
    channel.onMessage(Client::remember);
    channel.on("test.event", message -> {
      Map<?, ?> data = (Map<?, ?>) payload(message).get("data");
      report("event " + ((Number) data.get("n")).intValue());
      return Unit.INSTANCE;
    });
    socket.connect();
    channel.join(TIMEOUT_MS).receive("ok", message -> {
      report("joined " + cursor);
      return Unit.INSTANCE;
    });

    BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
    for (String line; (line = input.readLine()) != null; ) {
      if (line.equals("leave")) {
        channel.leave(TIMEOUT_MS).receive("ok", message -> {
          report("left");
          return Unit.INSTANCE;
        });
        continue;
      }
      token = line.split(" ")[1];
      channel.push("access_token", Map.of("access_token", token), TIMEOUT_MS).receive("ok", message -> {
        report("refreshed");
        return Unit.INSTANCE;
      });
    }
    System.exit(0);
  }
}
