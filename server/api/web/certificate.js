/** What a job's certificate says (docs/certificate.md): a table of its figures, and the heat map. */

import * as api from "./api.js";
import * as words from "./words.js";

const LEVELS = "levels of 255";

const rowsOf = ({ difference, fine_energy: fine, drift, seams, faces }) => [
  ["Difference from the picture, mean", words.decimal(difference.mean), LEVELS],
  ["Difference, 99 % are at most", words.decimal(difference.p99), LEVELS],
  ["Difference, largest", words.decimal(difference.max), LEVELS],
  ["Share of new fine detail", words.decimal(100 * fine), "%"],
  ["Change of the mean colour", words.decimal(drift.mean), LEVELS],
  ["Change of colour in small squares", words.decimal(drift.local), LEVELS],
  ...(seams === null ? [] : [["Steps where tiles meet", words.decimal(seams), "times those elsewhere"]]),
  ...faces.map(({ correlation }, place) => [
    `Likeness of face ${place + 1}`,
    correlation === null ? "unknown" : words.decimal(correlation),
    correlation === null ? "" : "of 1",
  ]),
];

/** Show the certificate in a card's `details`; null hides it. */
export function show(details, certificate, name) {
  details.hidden = certificate === null;
  if (certificate === null || details.dataset.key === certificate.heat_map.key) return;
  details.dataset.key = certificate.heat_map.key;
  details.querySelector("caption").textContent = `Certificate of ${name}`;
  details.querySelector("tbody").replaceChildren(...rowsOf(certificate).map(row));
  const image = details.querySelector("img");
  image.src = api.address(certificate.heat_map);
  image.alt = `Heat map of ${name}: where detail is new`;
}

function row([title, value, unit]) {
  const made = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = title;
  const cells = [value, unit].map((text) => {
    const cell = document.createElement("td");
    cell.textContent = text;
    return cell;
  });
  made.append(head, ...cells);
  return made;
}
