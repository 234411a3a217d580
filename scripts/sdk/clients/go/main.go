// A client with the Go SDK: scripts/sdks has the format of its arguments and its output.
//
//	client URL json|protobuf CHANNEL...
package main

import (
	"bufio"
	"encoding/json"
	"log"
	"os"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

// Handlers run one after the other, but end and main are others.
var output sync.Mutex

func tell(event string, fields map[string]any) {
	fields["event"] = event
	line, err := json.Marshal(fields)
	if err != nil {
		log.Fatal(err)
	}
	output.Lock()
	defer output.Unlock()
	_, _ = os.Stdout.Write(append(line, '\n'))
}

func read(data []byte) any {
	if len(data) == 0 {
		return nil
	}
	return json.RawMessage(data)
}

func main() {
	url, framing, channels := os.Args[1], os.Args[2], os.Args[3:]
	config := centrifuge.Config{MaxReconnectDelay: 2 * time.Second}
	create := centrifuge.NewJsonClient
	if framing == "protobuf" {
		create = centrifuge.NewProtobufClient
	}
	client := create(url, config)
	client.OnConnected(func(centrifuge.ConnectedEvent) { tell("connected", map[string]any{}) })
	client.OnConnecting(func(e centrifuge.ConnectingEvent) {
		tell("connecting", map[string]any{"code": e.Code, "reason": e.Reason})
	})
	client.OnDisconnected(func(e centrifuge.DisconnectedEvent) {
		tell("disconnected", map[string]any{"code": e.Code, "reason": e.Reason})
	})
	subscriptions := map[string]*centrifuge.Subscription{}
	for _, channel := range channels {
		subscription, err := client.NewSubscription(channel)
		if err != nil {
			log.Fatal(err)
		}
		subscriptions[channel] = subscription
		subscription.OnSubscribed(func(e centrifuge.SubscribedEvent) {
			fields := map[string]any{"channel": channel, "recovered": e.Recovered, "data": nil}
			if !e.Recovered {
				fields["data"] = read(e.Data)
			}
			tell("subscribed", fields)
		})
		subscription.OnPublication(func(e centrifuge.PublicationEvent) {
			tell("publication", map[string]any{"channel": channel, "offset": e.Offset, "data": read(e.Data)})
		})
		subscription.OnUnsubscribed(func(e centrifuge.UnsubscribedEvent) {
			tell("unsubscribed", map[string]any{"channel": channel, "code": e.Code})
		})
		if err := subscription.Subscribe(); err != nil {
			log.Fatal(err)
		}
	}
	if err := client.Connect(); err != nil {
		log.Print(err)
	}
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		if err := subscriptions[commands.Text()].Unsubscribe(); err != nil {
			log.Fatal(err)
		}
	}
	client.Close()
}
