import { Crop } from "./crop.js";

const $ = (id) => document.getElementById(id);
const queries = []; // searches of this visit: { file } or { image }
let query = null, latest = 0, about = null, preview = null;

const crop = new Crop($("box"), $("stage"), search);

async function fetchJson(url, options) {
  let answer;
  try {
    answer = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  const words = content.error ?? `The server answered ${answer.status}`;
  throw new Error(words[0].toUpperCase() + words.slice(1));
}

function parameters() {
  const params = new URLSearchParams({ k: $("k").value, metric: $("metric").value });
  if ($("category").value) params.set("category", $("category").value.slice(1));
  if ($("max").value) params.set("max_distance", $("max").value);
  else if (about.max_distance !== null) params.set("max_distance", 2); // the largest possible
  if (crop.area) params.set("crop", crop.area.map((side) => side.toFixed(4)).join());
  if (query?.image !== undefined) params.set("image", query.image);
  return params;
}

let abort = new AbortController();
async function search() {
  abort.abort();
  abort = new AbortController();
  const id = ++latest; // an answer that a newer search overtook is not shown
  busy(true);
  try {
    const { signal } = abort;
    if (!query) {
      const params = parameters();
      const only = params.has("category") ? `?category=${encodeURIComponent(params.get("category"))}` : "";
      const overview = await fetchJson(`api/index${only}`, { signal });
      if (id !== latest) return;
      show(overview.examples, "In the index", "Choose one to search from it");
      return;
    }
    if (query.file && query.file.size > about.max_upload_bytes)
      throw new Error(`This file is larger than ${about.max_upload_bytes >> 20} MB`);
    const options = query.file ? { method: "POST", body: query.file, signal } : { signal };
    const answer = await fetchJson(`api/search?${parameters()}`, options);
    if (id !== latest) return;
    if (answer.query) $("query-name").textContent = answer.query.name;
    const count = answer.matches.length;
    const words = count ? `${count} ${count === 1 ? "match" : "matches"} in ${Math.round(answer.milliseconds)} ms`
      : "No image within this distance";
    show(answer.matches, "Nearest matches", words);
  } catch (error) {
    if (id !== latest || error.name === "AbortError") return;
    show([], query ? "Nearest matches" : "In the index", "");
    $("error").textContent = error.message;
    $("error").hidden = false;
  } finally {
    if (id === latest) busy(false);
  }
}

function busy(yes) {
  $("results").setAttribute("aria-busy", yes);
  if (!yes) return;
  $("error").hidden = true;
  $("status").textContent = query ? "Searching …" : "Loading …";
}

function show(matches, title, words) {
  $("results-title").textContent = title;
  $("status").textContent = words;
  $("matches").replaceChildren(...matches.map(card));
}

function card(match) {
  const make = (tag, values = {}, ...inside) => {
    const node = Object.assign(document.createElement(tag), values);
    node.append(...inside);
    return node;
  };
  const folder = `${match.category}/`;
  const file = match.name.startsWith(folder) ? match.name.slice(folder.length) : match.name;
  const words = make("span", { className: "words" }, make("b", { textContent: match.category || file }));
  if (match.distance !== undefined)
    words.append(make("data", { value: match.distance, textContent: match.distance.toFixed(3), title: "metric" }));
  words.append(make("small", { textContent: match.category ? file : "\u00a0", title: match.name }));
  const image = match.url
    ? make("img", { src: `${match.url.slice(1)}?size=thumbnail`, alt: "", loading: "lazy" })
    : make("span", { className: "no-image" });
  const button = make("button", { type: "button", title: `Search from ${match.name}` }, image, words);
  button.dataset.image = match.image;
  button.addEventListener("click", () => startSearch({ image: match.image }));
  return make("li", {}, button);
}

function startSearch(next) {
  queries.push(next);
  const address = next.image === undefined ? location.pathname : `?image=${next.image}`;
  history.pushState({ position: queries.length - 1 }, "", address);
  showQuery(next);
  if (matchMedia("(max-width: 760px)").matches) $("query").scrollIntoView();
  else scrollTo(0, 0); // the nearest matches are at the top
}

function showQuery(next) {
  query = next;
  crop.hide();
  $("crop").setAttribute("aria-pressed", false);
  if (preview) URL.revokeObjectURL(preview);
  preview = query?.file ? URL.createObjectURL(query.file) : null;
  if (query) $("preview").src = preview ?? `images/${query.image}`;
  $("preview").alt = query?.file ? `Your image ${query.file.name}` : "Image of the index";
  $("query-name").textContent = query?.file?.name ?? "";
  for (const id of ["stage", "crop"]) $(id).hidden = !query;
  $("empty").hidden = Boolean(query);
  search();
}

$("preview").addEventListener("error", () => {
  $("stage").hidden = $("crop").hidden = true;
  $("empty").hidden = false;
});
$("crop").addEventListener("click", () => {
  if (crop.area) crop.hide();
  else crop.show();
  $("crop").setAttribute("aria-pressed", Boolean(crop.area));
  if (crop.area) $("box").focus();
  search();
});
for (const id of ["file", "camera"])
  $(id).addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = ""; // the same file may be chosen again
    if (file) startSearch({ file });
  });
const firstFile = (data) => [...(data?.files ?? [])][0];
document.addEventListener("paste", (event) => {
  const file = firstFile(event.clipboardData);
  if (file) startSearch({ file });
});
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && firstFile(event.dataTransfer);
    if (file) startSearch({ file });
  });
$("params").addEventListener("submit", (event) => event.preventDefault());
$("params").addEventListener("change", search);
const linked = () => {
  const image = new URLSearchParams(location.search).get("image");
  return image === null ? null : { image };
};
addEventListener("popstate", (event) => showQuery(queries[event.state?.position] ?? linked()));

try {
  about = await fetchJson("api/index");
  document.title = `${about.name} – image search`;
  const names = Object.keys(about.categories);
  const counted = names.length === 1 ? " in 1 category" : names.length ? ` in ${names.length} categories` : "";
  $("about").textContent = `${about.num_images.toLocaleString("en")} images${counted} of “${about.name}”`;
  for (const name of names)
    $("category").append(new Option(`${name || "(none)"} (${about.categories[name]})`, `=${name}`)); // "" is all, "=" is none
  if (about.max_distance !== null) $("max").value = about.max_distance;
  showQuery(linked());
} catch (error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
}
