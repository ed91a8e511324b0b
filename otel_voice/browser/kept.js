const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = request.oncomplete = () => resolve(request.result);
    request.onerror = request.onabort = request.onblocked = () => reject(request.error);
  });

/** Rows in IndexedDB by their `id`. A call's promise is kept when a row would survive the browser. */
export class Kept {
  static async open() {
    const request = indexedDB.open("otel-voice", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("rows", { keyPath: "id" });
    const kept = new Kept();
    kept.db = await done(request);
    kept.db.onversionchange = () => kept.db.close(); // the app deletes it
    return kept;
  }

  async change(change) {
    const transaction = this.db.transaction("rows", "readwrite");
    change(transaction.objectStore("rows"));
    return done(transaction);
  }

  async all() {
    return done(this.db.transaction("rows").objectStore("rows").getAll());
  }
}
