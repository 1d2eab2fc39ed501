// Brings every stepper on the page to life. Without it the first frame stands still.
(() => {
  const PAUSE = 1000; // milliseconds between frames while playing

  function start(figure) {
    if (figure.dataset.ready) return;
    figure.dataset.ready = "yes";
    const data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    const view = figure.querySelector(".mv-view");
    const caption = figure.querySelector("figcaption");
    const controls = figure.querySelector(".mv-controls");
    const sliders = [...controls.querySelectorAll("input")];
    const outputs = [...controls.querySelectorAll("output")];
    const play = controls.querySelector(".mv-play");
    let timer = null;

    // Frames are counted through the axes like the digits of a number, the last axis fastest.
    const current = () => sliders.reduce((sum, slider, i) => sum * data.axes[i].length + Number(slider.value), 0);

    function show() {
      const frame = data.frames[current()];
      const shapes = frame.shapes.map((index) => data.shapes[index]).join("");
      view.innerHTML = `<svg ${data.attributes}>${shapes}</svg>`;
      view.firstChild.setAttribute("aria-label", frame.alt);
      caption.textContent = frame.caption;
      outputs.forEach((output, i) => { output.textContent = data.axes[i][Number(sliders[i].value)]; });
    }

    function go(frame) {
      let rest = Math.max(0, Math.min(data.frames.length - 1, frame));
      for (let i = sliders.length - 1; i >= 0; i--) {
        sliders[i].value = rest % data.axes[i].length;
        rest = Math.floor(rest / data.axes[i].length);
      }
      show();
    }

    function stop() {
      clearInterval(timer);
      timer = null;
      if (play) play.textContent = "Play";
    }

    function toggle() {
      if (timer !== null) return stop();
      if (current() === data.frames.length - 1) go(0);
      play.textContent = "Pause";
      timer = setInterval(() => {
        if (!figure.isConnected) return stop();
        go(current() + 1);
        if (current() === data.frames.length - 1) stop();
      }, PAUSE);
    }

    const moves = { ArrowLeft: () => current() - 1, ArrowRight: () => current() + 1, Home: () => 0, End: () => Infinity };
    figure.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const isSlider = event.target.tagName === "INPUT";
      if (event.key in moves && (play || !isSlider)) {
        stop();
        go(moves[event.key]());
      } else if (event.key === " " && play && event.target === figure) {
        toggle();
      } else {
        if (isSlider) event.stopPropagation();
        return;
      }
      event.preventDefault();
      event.stopPropagation(); // a notebook has plans of its own for these keys
    });
    sliders.forEach((slider) => slider.addEventListener("input", () => { stop(); show(); }));
    controls.addEventListener("click", (event) => {
      if (event.target.dataset.by) {
        stop();
        go(current() + Number(event.target.dataset.by));
      }
    });
    if (play) play.addEventListener("click", toggle);
    view.addEventListener("click", (event) => {
      const target = event.target.closest("[data-go]");
      if (target) {
        stop();
        go(Number(target.dataset.go));
      }
    });
    controls.hidden = false;
    figure.tabIndex = 0;
    go(data.start);
  }

  document.querySelectorAll("figure.mv-stepper").forEach(start);
})();
