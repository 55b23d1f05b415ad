// The search runs in a worker, and browsers start none for pages opened from disk: there it runs in a hidden frame.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.ready = new Promise(resolve => this.frame.addEventListener("load", resolve))
      const opened = document.createElement("a")
      opened.href = url
      this.frame.srcdoc =
        "<script>postMessage = data => parent.dispatchEvent(new CustomEvent('from-frame', { detail: data }))</script>" +
        `<script src="${opened.href}"></script>`
      window.addEventListener("from-frame", event => {
        const message = new MessageEvent("message", { data: event.detail })
        this.dispatchEvent(message)
        if (this.onmessage) this.onmessage(message)
      })
      document.body.append(this.frame)
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
  window.Worker = window.IFrameWorker
}
