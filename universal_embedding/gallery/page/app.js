import { Crop } from "./crop.js";

const $ = (id) => document.getElementById(id);
const queries = []; // what this visit searched with: { file } or { picture }
let query = null, latest = 0, about = null, preview = null;

const crop = new Crop($("box"), $("stage"), search);

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
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
  const wishes = new URLSearchParams({ k: $("k").value, distance: $("distance").value });
  if ($("category").value) wishes.set("category", $("category").value === " " ? "" : $("category").value);
  if ($("max").value) wishes.set("max_distance", $("max").value);
  else if (about.max_distance !== null) wishes.set("max_distance", 2); // the largest there is
  if (crop.area) wishes.set("crop", crop.area.map((side) => side.toFixed(4)).join());
  if (query?.picture !== undefined) wishes.set("picture", query.picture);
  return wishes;
}

let abort = new AbortController();
async function search() {
  abort.abort();
  abort = new AbortController();
  const turn = ++latest; // an answer that was overtaken is not shown
  busy(true);
  try {
    const { signal } = abort;
    if (!query) {
      const wishes = parameters();
      const only = wishes.has("category") ? `?category=${encodeURIComponent(wishes.get("category"))}` : "";
      const gallery = await ask(`api/gallery${only}`, { signal });
      if (turn !== latest) return;
      show(gallery.examples, "In the gallery", "Choose one to search from it");
      return;
    }
    if (query.file && query.file.size > about.max_upload_bytes)
      throw new Error(`This file is larger than ${about.max_upload_bytes >> 20} MB`);
    const options = query.file ? { method: "POST", body: query.file, signal } : { signal };
    const found = await ask(`api/search?${parameters()}`, options);
    if (turn !== latest) return;
    if (found.query) $("query-name").textContent = found.query.name;
    const count = found.matches.length;
    const words = count ? `${count} ${count === 1 ? "match" : "matches"} in ${Math.round(found.milliseconds)} ms`
      : "Nothing in the gallery is that near";
    show(found.matches, "Nearest matches", words);
  } catch (error) {
    if (turn !== latest || error.name === "AbortError") return;
    show([], query ? "Nearest matches" : "In the gallery", "");
    $("error").textContent = error.message;
    $("error").hidden = false;
  } finally {
    if (turn === latest) busy(false);
  }
}

function busy(yes) {
  $("found").setAttribute("aria-busy", yes);
  if (!yes) return;
  $("error").hidden = true;
  $("status").textContent = query ? "Searching …" : "Loading …";
}

function show(matches, title, words) {
  $("found-title").textContent = title;
  $("status").textContent = words;
  $("matches").replaceChildren(...matches.map(card));
}

function card(match) {
  const make = (tag, values = {}, ...inside) => {
    const node = Object.assign(document.createElement(tag), values);
    node.append(...inside);
    return node;
  };
  const file = match.category ? match.name.slice(match.category.length + 1) : match.name;
  const words = make("span", { className: "words" }, make("b", { textContent: match.category || file }));
  if (match.distance !== undefined)
    words.append(make("data", { value: match.distance, textContent: match.distance.toFixed(3), title: "distance" }));
  words.append(make("small", { textContent: match.category ? file : "\u00a0", title: match.name }));
  const image = make("img", { src: `${match.url.slice(1)}?size=thumbnail`, alt: "", loading: "lazy" });
  const button = make("button", { type: "button", title: `Search from ${match.name}` }, image, words);
  button.dataset.picture = match.picture;
  button.addEventListener("click", () => ask_with({ picture: match.picture }));
  return make("li", {}, button);
}

function ask_with(next) {
  queries.push(next);
  const address = next.picture === undefined ? location.pathname : `?picture=${next.picture}`;
  history.pushState({ turn: queries.length - 1 }, "", address);
  take(next);
  if (matchMedia("(max-width: 760px)").matches) $("query").scrollIntoView();
  else scrollTo(0, 0); // the nearest stand at the top
}

function take(next) {
  query = next;
  crop.hide();
  $("crop").setAttribute("aria-pressed", false);
  if (preview) URL.revokeObjectURL(preview);
  preview = query?.file ? URL.createObjectURL(query.file) : null;
  if (query) $("preview").src = preview ?? `pictures/${query.picture}`;
  $("preview").alt = query?.file ? `Your picture ${query.file.name}` : "Picture of the gallery";
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
    if (file) ask_with({ file });
  });
const given = (data) => [...(data?.files ?? [])][0];
document.addEventListener("paste", (event) => {
  const file = given(event.clipboardData);
  if (file) ask_with({ file });
});
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && given(event.dataTransfer);
    if (file) ask_with({ file });
  });
$("wishes").addEventListener("submit", (event) => event.preventDefault());
$("wishes").addEventListener("change", search);
const linked = () => {
  const picture = new URLSearchParams(location.search).get("picture");
  return picture === null ? null : { picture };
};
addEventListener("popstate", (event) => take(queries[event.state?.turn] ?? linked()));

try {
  about = await ask("api/gallery");
  document.title = `${about.gallery} – picture search`;
  const names = Object.keys(about.categories);
  const counted = names.length === 1 ? "1 category" : `${names.length} categories`;
  $("about").textContent = `${about.pictures.toLocaleString("en")} pictures in ${counted} of “${about.gallery}”`;
  for (const name of names)
    $("category").append(new Option(`${name || "(none)"} (${about.categories[name]})`, name || " "));
  if (about.max_distance !== null) $("max").value = about.max_distance;
  take(linked());
} catch (error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
}
