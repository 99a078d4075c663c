// A page that was opened as a file may not fetch others: the excerpts of search results then come from a script.
if (location.protocol === "file:") {
  const loaded = new Promise((resolve) => {
    const script = Object.assign(document.createElement("script"), { src: "_static/excerpts.js", onload: resolve });
    document.head.append(script);
  });
  window.fetch = async (address) => {
    await loaded;
    return new Response(window.EXCERPTS[address.replace(/^\.\/|\.html$/g, "")]);
  };
}
