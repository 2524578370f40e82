import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";

function App() {
  const [clicks, setClicks] = useState(0);
  return (
    <main>
      <h1>Hello from {import.meta.env.VITE_GREETING_NAME ?? "Shipoff"}</h1>
      <p>This page is {window.location.pathname}</p>
      <button onClick={() => setClicks(clicks + 1)}>{clicks} clicks</button>
    </main>
  );
}

createRoot(document.getElementById("root")).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
