// The one event stream of a browser: a SharedWorker that all tabs of the panel ask for topics.
import { Hub } from "./stream-hub";

interface SharedScope { onconnect: ((event: MessageEvent) => void) | null }

const hub = new Hub((url) => new EventSource(url));

(self as unknown as SharedScope).onconnect = (event) => {
  const port = event.ports[0]!;
  const tell = (message: unknown) => port.postMessage(message);
  port.onmessage = ({ data }: MessageEvent<{ topics: string[] | null }>) => {
    if (data.topics === null) { hub.leave(tell); port.close(); }
    else hub.want(tell, data.topics);
  };
};
