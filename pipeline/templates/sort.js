// A click on a head sorts by its column: numbers from the largest, texts from A; again turns it.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const cell = (line) => line.cells[head.cellIndex];
    const lines = [...body.rows];
    const numbers = lines.some((line) => "number" in cell(line).dataset);
    const [first, second] = numbers ? ["descending", "ascending"] : ["ascending", "descending"];
    const order = head.getAttribute("aria-sort") === first ? second : first;
    const turn = order === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      if (!numbers) return turn * cell(a).textContent.localeCompare(cell(b).textContent);
      const [x, y] = [a, b].map((line) => cell(line).dataset.number);
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return turn * (x - y);
    };
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", order);
    body.append(...lines.sort(compare));
  });
}
