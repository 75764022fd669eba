import { Page } from "../ui";

export default function Shown() { return <Page title="overview" />; }
