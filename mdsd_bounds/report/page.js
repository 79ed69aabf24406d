// Adds what a page without script can do without: sorting, filtering, and keys for the positions.
(function () {
  "use strict";
  function key(row, column) { return row.cells[column].getAttribute("data-key"); }
  document.querySelectorAll("table.sortable").forEach(function (table) {
    var body = table.tBodies[0];
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
      // A span: browsers leave real buttons out of heads that are repeated on printed pages.
      var button = document.createElement("span");
      button.className = "sort";
      button.setAttribute("role", "button");
      button.tabIndex = 0;
      while (head.firstChild) { button.appendChild(head.firstChild); }
      head.appendChild(button);
      button.addEventListener("keydown", function (event) {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); button.click(); }
      });
      button.addEventListener("click", function () {
        var down = head.getAttribute("aria-sort") === "ascending";
        Array.prototype.forEach.call(table.tHead.rows[0].cells, function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        Array.prototype.slice.call(body.rows).sort(function (a, b) {
          var x = key(a, column), y = key(b, column), order;
          var both = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
          order = both ? Number(x) - Number(y) : String(x).localeCompare(String(y));
          return down ? -order : order;
        }).forEach(function (row) { body.appendChild(row); });
      });
    });
    if (body.rows.length > 8) {
      var label = document.createElement("label");
      label.className = "filter";
      label.appendChild(document.createTextNode("Show rows with "));
      var input = document.createElement("input");
      input.type = "search";
      label.appendChild(input);
      table.parentNode.insertBefore(label, table);
      input.addEventListener("input", function () {
        var words = input.value.toLowerCase().split(/\s+/);
        Array.prototype.forEach.call(body.rows, function (row) {
          var text = row.textContent.toLowerCase();
          row.hidden = !words.every(function (word) { return text.indexOf(word) >= 0; });
        });
      });
    }
  });
  if (window.matchMedia("(max-width: 640px)").matches) {
    // A long table is a fold on a phone; its number of rows stands on the fold.
    document.querySelectorAll("table.sortable").forEach(function (table) {
      if (table.tBodies[0].rows.length > 12) { table.closest("details").open = false; }
    });
  }
  var positions = Array.prototype.slice.call(document.querySelectorAll("#positions details"));
  document.addEventListener("keydown", function (event) {
    if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey) { return; }
    var step = event.key === "j" ? 1 : event.key === "k" ? -1 : 0;
    if (!step || !positions.length) { return; }
    var open = positions.findIndex(function (part) { return part.open; });
    var next = Math.min(Math.max(open + step, 0), positions.length - 1);
    positions.forEach(function (part, place) { part.open = place === next; });
    positions[next].querySelector("summary").focus();
    positions[next].scrollIntoView({ block: "start" });
  });
  var closed = [];
  window.addEventListener("beforeprint", function () {
    closed = Array.prototype.slice.call(document.querySelectorAll("details:not([open])"));
    closed.forEach(function (part) { part.open = true; });
  });
  window.addEventListener("afterprint", function () {
    closed.forEach(function (part) { part.open = false; });
  });
})();
