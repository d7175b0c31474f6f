/* Browsers start no worker for a page that was opened from a file. There the search runs in a hidden frame instead:
   the same script, with a worker's three functions. MkDocs Material looks for the name IFrameWorker. */
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      frame.contentDocument.open();
      frame.contentDocument.write("<!doctype html><title>search</title><body></body>");
      frame.contentDocument.close();
      this.frame = frame;
      const inside = frame.contentWindow;
      const load = (src) => new Promise((done, failed) => {
        const script = frame.contentDocument.createElement("script");
        Object.assign(script, { src, onload: done, onerror: failed });
        frame.contentDocument.body.append(script);
      });
      inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      inside.importScripts = (...all) => all.reduce((before, src) => before.then(() => load(src)), Promise.resolve());
      this.loaded = load(url);
    }
    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
