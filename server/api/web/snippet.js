/** The same job as program code. Keys are read from the environment, so that copied code contains none. */

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** For a POSIX shell. `file` and `output` are names; `withKey`: whether the server wants a key. */
export function curl({ base, params, file, output, withKey }) {
  const key = withKey ? ` -H "Authorization: Bearer $API_KEY"` : "";
  const fields = Object.entries(params).map(([name, value]) => ` -F ${name}=${value}`);
  return [
    `job=$(curl -fsS ${base}/jobs${key} -F ${quoted(`file=@"${file.replace(/["\\]/g, "\\$&")}"`)}${fields.join("")}` +
      ` | grep -oE '[0-9a-f]{32}' | head -n 1)`,
    `curl -fsSN ${base}/jobs/$job/events${key} > /dev/null  # until it has ended`,
    `curl -fsS ${base}/jobs/$job/result${key} -o ${quoted(output)}`,
  ].join("\n");
}

/** For Python with requests. */
export function python({ base, params, file, output, withKey }) {
  // NOTE: strings and numbers are written the same in JSON and Python, but true is not.
  const fields = Object.entries(params).map(([name, value]) => `"${name}": ${JSON.stringify(String(value))}`);
  return [
    ...(withKey ? ["import os"] : []),
    "import time",
    "",
    "import requests",
    "",
    "server = requests.Session()",
    ...(withKey ? [`server.headers["Authorization"] = "Bearer " + os.environ["API_KEY"]`] : []),
    `with open(${JSON.stringify(file)}, "rb") as picture:`,
    `    answer = server.post("${base}/jobs", files={"file": picture}, data={${fields.join(", ")}})`,
    "answer.raise_for_status()",
    "job = answer.json()",
    `while job["state"] in ("queued", "running"):`,
    "    time.sleep(0.5)",
    `    job = server.get("${base}/jobs/" + job["id"]).json()`,
    `result = server.get("${base}/jobs/" + job["id"] + "/result")`,
    "result.raise_for_status()",
    `with open(${JSON.stringify(output)}, "wb") as picture:`,
    "    picture.write(result.content)",
  ].join("\n");
}
