// What the login page says.
export const S = {
  title: "Log in",
  welcome: "Welcome",
  welcomeLead: "This link makes an account, or sets the password of one.",
  name: "Name",
  nameHint: "Only for the server's first account; whoever was invited leaves it empty.",
  password: "Password",
  newPassword: "Choose a password",
  newPasswordHint: "10 characters or more. A sentence is good.",
  repeat: "The password again",
  differ: "The two are not the same.",
  logIn: "Log in",
  begin: "Save and log in",
  noAccount: "No account yet? On the server, the command 'rejoinder users link' makes a link for the first one; later ones come from an administrator.",
};
