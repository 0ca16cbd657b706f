"use strict";
// Keys of the tabs Rank and Label. They press the tabs' buttons; a key pressed in a field is text.
{
  const BUTTONS = {
    rank: { Enter: "submit", s: "skip", u: "undo" },
    label: { a: "a", 1: "a", b: "b", 2: "b", t: "tie", s: "skip", u: "undo" },
  };
  const box = () => document.querySelector("#rank-order textarea, #rank-order input");
  const cards = () => document.querySelectorAll("#rank-answers .answer");
  const numbers = text => (text.match(/\d+/g) ?? []).map(Number);

  function say(text) {
    const place = document.querySelector("#rank-answers .picked[role=status]");
    if (place) place.textContent = text;
  }

  function draw(text) {
    const ranks = new Map();
    let before = 0;
    for (const group of text.split(/\s+/)) {
      const members = numbers(group);
      for (const number of members) ranks.set(number, before + 1);
      before += members.length;
    }
    cards().forEach((card, at) => {
      const rank = ranks.get(at + 1);
      card.classList.toggle("picked", rank !== undefined);
      card.querySelector(".place").textContent = rank === undefined ? "" : `rank ${rank}`;
    });
  }

  function write(text) {
    box().value = text;
    box().dispatchEvent(new Event("input", { bubbles: true }));
    say("");
  }

  // A number; "1" may be the beginning of "12" where there are so many answers, unless it comes whole, by a click.
  function pick(digits, whole) {
    const text = box().value, count = cards().length;
    const last = whole ? "" : (text.match(/\d+$/) ?? [""])[0];
    if (last && Number(last + digits) <= count) return write(text + digits);
    const number = Number(digits);
    const goesOn = !whole && number > 0 && number * 10 <= count;
    if (number < 1 || number > count) return say(`there is no answer ${number}`);
    if (!goesOn && numbers(text).includes(number)) return say(`answer ${number} is already ranked; Backspace takes the last pick back`);
    const body = text.trimEnd();
    write(body === "" || body.endsWith("=") ? body + digits : `${body} ${digits}`);
  }

  function tie() {
    const body = box().value.trimEnd();
    write(body.endsWith("=") ? body.slice(0, -1) : body && `${body}=`);
  }

  function order(key) {
    if (/^[0-9]$/.test(key)) pick(key, false);
    else if (key === "=") tie();
    else if (key === " " && /\d$/.test(box().value)) write(`${box().value} `);
    else if (key === "Backspace") write(box().value.trimEnd().slice(0, -1).trimEnd());
    else return false;
    return true;
  }

  globalThis.reasongenrmTie = tie;
  globalThis.reasongenrmTop = id => document.getElementById(id)?.scrollIntoView({ block: "start" });

  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest("input, textarea, select, summary, [contenteditable]")) return;
    if (event.target.closest("button") && (event.key === "Enter" || event.key === " ")) return;
    const tab = Object.keys(BUTTONS).find(name => document.getElementById(`${name}-work`)?.checkVisibility());
    if (!tab) return;
    const button = BUTTONS[tab][event.key];
    if (button) {
      if (!event.repeat) document.getElementById(`${tab}-${button}`).click();
    } else if (tab !== "rank" || !order(event.key)) return;
    event.preventDefault();
  });
  document.addEventListener("click", event => {
    const number = event.target.closest?.("#rank-answers .pick");
    if (number) pick(number.textContent, true);
    // A button that the mouse has pressed would take the next Enter.
    const button = event.target.closest?.("#rank-work button, #label-work button");
    if (event.detail > 0 && button) button.blur();
  });
  document.addEventListener("input", event => {
    if (event.target === box()) draw(event.target.value);
  });
}
