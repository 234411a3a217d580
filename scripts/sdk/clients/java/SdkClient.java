// A client with the Java SDK, which has Protobuf only: scripts/sdks has the format of its arguments
// and its output.
//
//   java SdkClient URL protobuf CHANNEL...

import io.github.centrifugal.centrifuge.Client;
import io.github.centrifugal.centrifuge.ConnectedEvent;
import io.github.centrifugal.centrifuge.ConnectingEvent;
import io.github.centrifugal.centrifuge.DisconnectedEvent;
import io.github.centrifugal.centrifuge.EventListener;
import io.github.centrifugal.centrifuge.Options;
import io.github.centrifugal.centrifuge.PublicationEvent;
import io.github.centrifugal.centrifuge.SubscribedEvent;
import io.github.centrifugal.centrifuge.Subscription;
import io.github.centrifugal.centrifuge.SubscriptionEventListener;
import io.github.centrifugal.centrifuge.UnsubscribedEvent;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;

public final class SdkClient {
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    // The texts here need no escapes, and data is JSON.
    private static synchronized void tell(String fields, Object... values) {
        OUT.println("{" + String.format(fields.replace('\'', '"'), values) + "}");
    }

    private static String read(byte[] data) {
        return data == null || data.length == 0 ? "null" : new String(data, StandardCharsets.UTF_8);
    }

    private static final class OfClient extends EventListener {
        @Override
        public void onConnected(Client client, ConnectedEvent event) {
            tell("'event': 'connected'");
        }

        @Override
        public void onConnecting(Client client, ConnectingEvent event) {
            tell("'event': 'connecting', 'code': %d", event.getCode());
        }

        @Override
        public void onDisconnected(Client client, DisconnectedEvent event) {
            tell("'event': 'disconnected', 'code': %d", event.getCode());
        }
    }

    private static final class OfChannel extends SubscriptionEventListener {
        @Override
        public void onSubscribed(Subscription of, SubscribedEvent event) {
            String data = event.getRecovered() ? "null" : read(event.getData());
            tell("'event': 'subscribed', 'channel': '%s', 'recovered': %b, 'data': %s",
                    of.getChannel(), event.getRecovered(), data);
        }

        @Override
        public void onPublication(Subscription of, PublicationEvent event) {
            tell("'event': 'publication', 'channel': '%s', 'offset': %d, 'data': %s",
                    of.getChannel(), event.getOffset(), read(event.getData()));
        }

        @Override
        public void onUnsubscribed(Subscription of, UnsubscribedEvent event) {
            tell("'event': 'unsubscribed', 'channel': '%s', 'code': %d", of.getChannel(), event.getCode());
        }
    }

    public static void main(String[] args) throws Exception {
        Options options = new Options();
        options.setMaxReconnectDelay(2000);
        Client client = new Client(args[0], options, new OfClient());
        for (int at = 2; at < args.length; at++) {
            client.newSubscription(args[at], new OfChannel()).subscribe();
        }
        client.connect();
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            client.getSubscription(line).unsubscribe();
        }
        client.close(5000);
        // Its connection pool keeps threads for a minute.
        System.exit(0);
    }
}
