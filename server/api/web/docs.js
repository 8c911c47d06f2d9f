// Shows the OpenAPI document of one API, which the address names after "#", or of all.

const select = document.getElementById("api");
const link = document.getElementById("document");

async function show() {
  const name = select.value;
  link.href = name === "all" ? "openapi.json" : `openapi/${name}.json`;
  const spec = await (await fetch(link.href)).json();
  // Behind a proxy with a prefix the requests must go there too.
  spec.servers = [{ url: new URL(".", location.href).href.replace(/\/$/, "") }];
  SwaggerUIBundle({
    spec,
    dom_id: "#docs",
    deepLinking: false,
    docExpansion: "list",
    validatorUrl: null,
  });
}

function fromAddress() {
  const wanted = location.hash.slice(1);
  select.value = [...select.options].some((each) => each.value === wanted) ? wanted : "native";
  return show();
}

const { apis } = await (await fetch("./", { headers: { Accept: "application/json" } })).json();
const names = ["native", ...apis.filter((each) => each !== "native"), "all"];
select.replaceChildren(...names.map((each) => new Option(each, each)));
select.addEventListener("change", () => {
  location.hash = select.value;
});
window.addEventListener("hashchange", fromAddress);
await fromAddress();
