// The microphone: what is said becomes a file of the queue when the recording is stopped.
"use strict";

(() => {
  const KINDS = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];
  const NO_MICROPHONE = "Browsers give the microphone only to pages over https. Ask your centre, or choose a file.";
  const ENDINGS = { "audio/webm": "webm", "audio/mp4": "m4a", "audio/ogg": "ogg" };

  let recorder = null;
  let began = 0;
  let ticking;

  const button = () => document.getElementById("record");
  const name = () => {
    const now = new Date();
    const two = (number) => String(number).padStart(2, "0");
    return `Recording ${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())} ${two(now.getHours())}.${two(now.getMinutes())}.${two(now.getSeconds())}`;
  };

  const show = () => {
    const on = recorder !== null;
    button().classList.toggle("on", on);
    button().querySelector(".word").textContent = on ? `Stop ${page.clock((performance.now() - began) / 1000)}` : "Record";
    page.set(button(), "aria-label", on ? "Stop recording" : "Record with the microphone");
  };

  // The dot grows with the voice: one sees that the microphone hears something.
  const watch = (stream) => {
    const context = new AudioContext();
    const analyser = context.createAnalyser();
    const samples = new Uint8Array(analyser.fftSize);
    context.createMediaStreamSource(stream).connect(analyser);
    return () => {
      if (!recorder) return context.close();
      analyser.getByteTimeDomainData(samples);
      const loudest = samples.reduce((most, sample) => Math.max(most, Math.abs(sample - 128)), 0) / 128;
      button().querySelector(".dot").style.setProperty("--loud", `${Math.min(8, 16 * loudest)}px`);
    };
  };

  const TROUBLE = {
    NotAllowedError: "The browser does not let this page use the microphone. Allow it beside the page's address.",
    NotFoundError: "No microphone was found.",
    NotReadableError: "The microphone cannot be used: another program may have it.",
  };

  const start = async () => {
    if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) return page.tell(NO_MICROPHONE);
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch (error) {
      return page.tell(TROUBLE[error.name] || `The microphone cannot be used: ${error.message}`);
    }
    page.tell("");
    const kind = KINDS.find((one) => MediaRecorder.isTypeSupported(one));
    const pieces = [];
    const called = name();
    recorder = new MediaRecorder(stream, kind ? { mimeType: kind } : {});
    recorder.ondataavailable = ({ data }) => data.size && pieces.push(data);
    recorder.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      clearInterval(ticking);
      clearInterval(watching);
      const type = recorder.mimeType.split(";")[0];
      recorder = null;
      look();
      show();
      page.speak("The recording is over.");
      page.addRecording(new File(pieces, `${called}.${ENDINGS[type] || "webm"}`, { type }));
    };
    // Unplugged: what was said until then is kept.
    stream.getAudioTracks()[0].onended = () => recorder?.state === "recording" && recorder.stop();
    recorder.start(1000);
    began = performance.now();
    ticking = setInterval(show, 500);
    const look = watch(stream);
    const watching = setInterval(look, 100);
    show();
    page.speak("Recording.");
  };

  page.saveSound = (item) => {
    page.download(item.name, item.file.type, [item.file]);
    item.unsaved = false;
  };

  page.begun.push(() => {
    show();
    button().onclick = () => (recorder ? recorder.stop() : start());
  });
  window.addEventListener("beforeunload", (event) => recorder && event.preventDefault());
})();
